"""One schema for a run, read from TOML with the line of every mistake."""

from hecate_core.config.load import config_digest, config_json, config_plain, load_config, make_config, recorded_config
from hecate_core.config.reference import Reference
from hecate_core.config.schema import Attention, Config, Data, Level, Memory, Model, Plugins, Run, Schedule, Start

__all__ = [
    "Attention",
    "Config",
    "Data",
    "Level",
    "Memory",
    "Model",
    "Plugins",
    "Reference",
    "Run",
    "Schedule",
    "Start",
    "config_digest",
    "config_json",
    "config_plain",
    "load_config",
    "make_config",
    "recorded_config",
]
