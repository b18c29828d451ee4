"""A part of a store that no earlier attempt of a job has used."""

from __future__ import annotations

import secrets
import time
from typing import Any

_POLL_S = 0.02


def fresh_store(store: Any, rank: int, num_ranks: int, timeout_s: float) -> Any:
    """Return the part of a store that only the ranks of this attempt know; all of them call it.

    Torchrun keeps its store when it starts ranks again, with the addresses of the earlier ones, which torch would use.

    Raises:
        TimeoutError: When rank 0 waits longer for the others.
    """
    import torch.distributed as dist

    names: Any = dist
    if rank:
        own = secrets.token_hex(8)
        store.set(f"hello/{rank}", own)
        token = store.get(f"welcome/{rank}/{own}").decode()  # waits; nobody has answered this word before
        store.set(f"{token}/joined/{rank}", "")
        return names.PrefixStore(token, store)
    token, end = secrets.token_hex(8), time.monotonic() + timeout_s
    missing = set(range(1, num_ranks))
    while missing:
        for one in missing:
            if store.check([f"hello/{one}"]):
                store.set(f"welcome/{one}/{store.get(f'hello/{one}').decode()}", token)
        missing = {one for one in missing if not store.check([f"{token}/joined/{one}"])}
        if time.monotonic() > end:
            raise TimeoutError(f"ranks {', '.join(map(str, sorted(missing)))} have not joined in {timeout_s:g} s")
        time.sleep(_POLL_S)
    return names.PrefixStore(token, store)
