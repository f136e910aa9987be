"""The two things that can go wrong and are not a bug: bad input, and a fit that failed."""


class InputError(ValueError):
    """Bad input; the message gives what was expected, what came, and what to do."""


class FitError(RuntimeError):
    """A fit that did not produce a usable result; the message says why and what to try."""
