"""Typed errors. Every message names what is wrong, where, and the accepted range."""


class TandemError(Exception):
    """Base of all errors a user can cause or should see as one line, never as a traceback."""


class ConfigError(TandemError):
    """A configuration, scene, robot, sampler or weight file is malformed: names file, key, value and accepted range."""


class InputError(TandemError):
    """A value passed to the library is unusable: names the argument, its value and the accepted range."""
