"""Real texts, sentence pairs and images: find, fetch, verify, read and encode them."""

from attnlab.corpora.encode import (
    SubwordVocabulary,
    Vocabulary,
    WordVocabulary,
    encode_corpus,
    encode_pairs,
)
from attnlab.corpora.fetch import (
    data_folders,
    describe_corpus,
    fetch_corpus,
    list_corpora,
)
from attnlab.corpora.labelled import LabelledImage, LabelledText
from attnlab.corpora.read import (
    SPLITS,
    Corpus,
    Document,
    LabelledCorpus,
    ParallelCorpus,
    SentencePair,
    collapse_layout,
    load_corpus,
    verify_corpus,
)
from attnlab.corpora.tokenizers import Tokenizer, load_tokenizer, train_bpe
from attnlab.errors import DownloadError

__all__ = [
    "SPLITS",
    "Corpus",
    "Document",
    "DownloadError",
    "LabelledCorpus",
    "LabelledImage",
    "LabelledText",
    "ParallelCorpus",
    "SentencePair",
    "SubwordVocabulary",
    "Tokenizer",
    "Vocabulary",
    "WordVocabulary",
    "collapse_layout",
    "data_folders",
    "describe_corpus",
    "encode_corpus",
    "encode_pairs",
    "fetch_corpus",
    "list_corpora",
    "load_corpus",
    "load_tokenizer",
    "train_bpe",
    "verify_corpus",
]
