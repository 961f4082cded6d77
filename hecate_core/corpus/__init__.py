"""Text to build on: the frozen corpus, one's own file, and the figures that any model must beat."""

from hecate_core.corpus.baselines import Baselines, fit_baselines
from hecate_core.corpus.text import Corpus, open_corpus, text_file, topics

__all__ = ["Baselines", "Corpus", "fit_baselines", "open_corpus", "text_file", "topics"]
