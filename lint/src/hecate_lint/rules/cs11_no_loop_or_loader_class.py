"""CS-11: a class is a training loop or a data loader of its own."""

from hecate_lint.facts import File
from hecate_lint.rules._words import Defined, WordsRule


class NoLoopOrLoaderClass(WordsRule):
    """A class is a training loop or a data loader of its own.

    SMELL. `class TrainingLoop`, `class TokenDataLoader`. Words are compared, never substrings; names from
    elsewhere are exempt.

    WHY. Context arrives as a stream; a loop with epochs and a loader with shuffling are another way of life.

    FIX. Make it a context stream.

    TRACE. Catalogue smell CS-11. Off unless selected.
    """

    id = "CS-11"
    name = "no-loop-or-loader-class"
    why = "context arrives as a stream; a loop with epochs and a loader with shuffling are another way of life"
    mend = "make it a context stream"

    VALID = """
class ContextStream: ...
# ---
batches = torch.utils.data.DataLoader(ds)
# ---
class Loop: ...
# ---
data_loader = None
# ---
class LoaderError(Exception): ...
"""
    INVALID = """
class TrainingLoop: ...  # <-
# ---
class TokenDataLoader: ...  # <-
# ---
class MyTrainLoop(Base): ...  # <-
# ---
class data_loader: ...  # <-
# ---
class FastTrainingLoop: ...  # <-
"""

    def wrong(self, file: File, defined: Defined) -> str:
        joined = "".join(defined.words)
        if defined.kind == "class" and (
            joined.endswith(("trainingloop", "trainloop")) or joined.endswith("dataloader")
        ):
            return "is a loop or loader; context comes as a stream"
        return ""
