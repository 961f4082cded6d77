"""Words that this field uses in identifiers, split as `facts.split_words` splits them."""

RETENTION = frozenset("decay decays retention retain retains forget forgetting lambda lam leak ema momentum".split())
RETENTION_WEAK = frozenset("gamma alpha beta eta mu tau smooth smoothing".split())
RAW = frozenset("logit logits log raw unconstrained inv".split())
STATE = frozenset(
    "state states memory memories mem hidden h s m w momentum buf cache caches ema carry prev previous surprise"
    " velocity recurrent kv acc cell".split()
)
INPUT = frozenset("x xs input inputs hidden_states q k v query key value u g grad gradient mask residual out y".split())
LEVELS = frozenset(
    "level levels frequency frequencies freq freqs period periods timescale timescales clock clocks".split()
)
EVALUATION = frozenset(
    "eval evaluate evaluation validate validation val generate sample infer inference predict probe".split()
)
