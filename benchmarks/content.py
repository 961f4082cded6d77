"""What names a file of results that carries no id of its own, so that a page can say which one it was made of."""

import hashlib
import json
from typing import Any


def content_id(found: Any) -> str:
    """Twelve hex digits over the values, whatever the file's layout."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]
