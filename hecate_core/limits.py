"""Every size that Hecate refuses to exceed when it reads what others wrote; change them here only."""

from typing import Final

MIB: Final = 1 << 20

CONFIG_BYTES: Final = 1 * MIB  # a config is written by hand; more is some other file
MANIFEST_BYTES: Final = 16 * MIB  # JSON beside a checkpoint or a run
HEADER_BYTES: Final = 16 * MIB  # JSON header of one safetensors file; 100,000 tensors need about 10 MiB
CHECKPOINT_FILES: Final = 1024  # files in one checkpoint
JSON_LINE_BYTES: Final = 1 * MIB  # one line of metrics
DATA_BYTES: Final = 4096 * MIB  # a text given as `data.path`, read into memory
