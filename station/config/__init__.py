"""The settings: read once, refused whole. The only door to YAML."""

from station.config.acts import RegisterAct, RootAct, load_ceremony
from station.config.loader import ConfigError
from station.config.settings import Config, Leds, Terminal, load

__all__ = ["Config", "ConfigError", "Leds", "RegisterAct", "RootAct", "Terminal", "load", "load_ceremony"]
