"""The settings: read once, refused whole. The only door to YAML."""

from station.config.acts import RegisterAct, RootAct, load_ceremony
from station.config.lamps import Terminal
from station.config.loader import ConfigError
from station.config.settings import Config, load, load_slots
from station.config.slots import SlotSettings, SlotTimes

__all__ = [
    "Config",
    "ConfigError",
    "RegisterAct",
    "RootAct",
    "SlotSettings",
    "SlotTimes",
    "Terminal",
    "load",
    "load_ceremony",
    "load_slots",
]
