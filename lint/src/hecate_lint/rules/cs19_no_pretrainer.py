"""CS-19: a class is a pre-trainer or an inference engine."""

from hecate_lint.facts import File
from hecate_lint.rules._words import Defined, WordsRule


class NoPretrainer(WordsRule):
    """A class is a pre-trainer or an inference engine.

    SMELL. `class PreTrainer`, `class InferenceEngine`, `*_pretraining_model`. Words are compared, never
    substrings; names from elsewhere are exempt.

    WHY. One unit learns all the time; two classes make two of it.

    FIX. Use one unit with a frequency config.

    TRACE. Catalogue smell CS-19. Off unless selected.
    """

    id = "CS-19"
    name = "no-pretrainer"
    why = "one unit learns all the time; two classes make two of it"
    mend = "use one unit with a frequency config"

    VALID = """
cfg = FrequencyConfig([1, 8, 64])
# ---
engine = vllm.LLM(name)
# ---
class Engine: ...
# ---
from x import InferenceEngine
e = InferenceEngine()
# ---
class PreTrained: ...
"""
    INVALID = """
class PreTrainer: ...  # <-
# ---
class InferenceEngine: ...  # <-
# ---
bert_pretraining_model = 1  # <-
# ---
class FastInferenceEngine(Base): ...  # <-
# ---
class Pretrainer: ...  # <-
"""

    def wrong(self, file: File, defined: Defined) -> str:
        joined = "".join(defined.words)
        if defined.kind in ("class", "name") and any(
            w in joined for w in ("pretrainer", "inferenceengine", "pretrainingmodel")
        ):
            return "splits one unit into two"
        return ""
