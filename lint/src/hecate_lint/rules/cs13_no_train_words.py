"""CS-13: a name defined here speaks of training, epochs or evaluation."""

from hecate_lint.facts import File
from hecate_lint.rules._words import Defined, WordsRule


class NoTrainWords(WordsRule):
    """A name defined here speaks of training, epochs or evaluation.

    SMELL. Identifiers with the words train, training, trainer, epoch, eval or inference. Words are compared,
    never substrings; names from elsewhere are exempt.

    WHY. The words carry phases that a unit which always learns does not have.

    FIX. Say build, process, stream or test.

    TRACE. Catalogue smells CS-13, CS-38. Off unless selected.
    """

    id = "CS-13"
    also = ("CS-38",)
    name = "no-train-words"
    why = "the words carry phases that a unit which always learns does not have"
    mend = "say build, process, stream or test"

    VALID = """
def build_step(unit, batch): ...
constraint = trait = restrain = None
# ---
model.train()
x = model.training
# ---
y = f(training=True)
# ---
class M(nn.Module):
    def train(self, mode=True):
        return self
# ---
strain = retrained_by = 0
"""
    INVALID = """
def train_step(unit, batch): ...  # <-
# ---
is_training = True  # <-
# ---
class Trainer: ...  # <-
# ---
def run(num_epochs): ...  # <-
# ---
self.eval_every = 10  # <-
"""

    def wrong(self, file: File, defined: Defined) -> str:
        if set(defined.words) & {"train", "training", "trainer", "epoch", "epochs", "eval", "pretrain", "pretraining"}:
            return "speaks of training"
        return ""
