"""Real text and sentence pairs: find them, fetch them, verify them, read them, encode them."""

from attnlab.corpora.download import DownloadError
from attnlab.corpora.encoded import EncodedCorpus, EncodedSplit, encode_corpus, encode_split
from attnlab.corpora.fetch import FetchProgress, fetch_corpus
from attnlab.corpora.parallel import ParallelCorpus, SentencePair
from attnlab.corpora.records import SPLITS, Corpus, Document, collapse_layout
from attnlab.corpora.registry import describe_corpus, list_corpora, load_corpus, verify_corpus
from attnlab.corpora.sentences import (
    EncodedPairs,
    SubwordVocabulary,
    Vocabulary,
    encode_pairs,
    learn_vocabularies,
)
from attnlab.corpora.store import cache_folder, data_folders
from attnlab.corpora.tokenizers import Tokenizer, load_tokenizer, train_bpe

__all__ = [
    "SPLITS",
    "Corpus",
    "Document",
    "DownloadError",
    "EncodedCorpus",
    "EncodedPairs",
    "EncodedSplit",
    "FetchProgress",
    "ParallelCorpus",
    "SentencePair",
    "SubwordVocabulary",
    "Tokenizer",
    "Vocabulary",
    "cache_folder",
    "collapse_layout",
    "data_folders",
    "describe_corpus",
    "encode_corpus",
    "encode_pairs",
    "encode_split",
    "fetch_corpus",
    "learn_vocabularies",
    "list_corpora",
    "load_corpus",
    "load_tokenizer",
    "train_bpe",
    "verify_corpus",
]
