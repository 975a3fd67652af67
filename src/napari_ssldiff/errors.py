"""Errors that a user can mend. Their text is one line: the thing, the value and the way out."""

from __future__ import annotations


class SSLDiffError(Exception):
    """Base of every error that this package raises on purpose for bad input or a bad machine."""


class InputError(SSLDiffError, ValueError):
    """A file, region, parameter or model that cannot be used as given."""


class OutputError(SSLDiffError, OSError):
    """A place that cannot be written: it exists, is read-only, or the disk is full."""


class ModelError(SSLDiffError):
    """A model that is unknown, incomplete or does not fit the request."""


class Cancelled(SSLDiffError):
    """The user stopped the work. Finished tiles stay."""
