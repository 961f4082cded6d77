"""Whose file raised: an exception out of a plugin's own code is its author's, not ours."""

import traceback

from hecate_core.registry.lookup import registry


def blamed(error: BaseException) -> str | None:
    """`rule "name" of distribution version`, or the plugin, whose code raised; None where core or a library did.

    What counts is the innermost frame of either: a plugin that calls core wrongly is told so by core.
    """
    try:
        components = [one for plugin in registry().plugins() for one in plugin.components]
    except Exception:  # hecate: allow FL-01 -- where the registry itself fails, the fault is ours
        return None
    owners = {one.target.partition(".")[0].partition(":")[0]: one.origin for one in components}
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        if package == "hecate_core":
            return None
        if package in owners:
            origin = owners[package]
            mine = [one for one in components if one.origin == origin and one.target.partition(":")[0] == module]
            who = f'{mine[0].kind} "{mine[0].name}"' if len(mine) == 1 else f'plugin "{origin.entry_point}"'
            return f"{who} of {origin.distribution} {origin.version}"
    return None
