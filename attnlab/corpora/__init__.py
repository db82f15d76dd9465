"""Real text: find it, fetch it, verify it, read it, encode it."""

from attnlab.corpora.download import DownloadError
from attnlab.corpora.encoded import EncodedCorpus, EncodedSplit, encode_corpus, encode_split
from attnlab.corpora.fetch import FetchProgress, fetch_corpus
from attnlab.corpora.records import Corpus, Document, collapse_layout
from attnlab.corpora.registry import describe_corpus, list_corpora, load_corpus, verify_corpus
from attnlab.corpora.store import cache_folder, data_folders

__all__ = [
    "Corpus",
    "Document",
    "DownloadError",
    "EncodedCorpus",
    "EncodedSplit",
    "FetchProgress",
    "cache_folder",
    "collapse_layout",
    "data_folders",
    "describe_corpus",
    "encode_corpus",
    "encode_split",
    "fetch_corpus",
    "list_corpora",
    "load_corpus",
    "verify_corpus",
]
