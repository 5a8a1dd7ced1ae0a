"""The errors a user can meet: one class for each remedy.

Every message is one line that says what is wrong, where, and how to mend it. The command line prints it
and exits with 2; anything else that escapes is a defect of ours and exits with 1.
"""


class SecurePFLError(Exception):
    """Base of every error that the user can mend."""


class ConfigError(SecurePFLError):
    """A setting is wrong: mend the TOML file, the option or the argument it names."""


class ExtraError(ConfigError):
    """A library is missing that an extra brings: install it."""


class DataError(SecurePFLError):
    """The data do not fit their declaration: mend the file, the column or the `[data]` table it names."""


class ModelError(SecurePFLError):
    """The model cannot be trained as asked: replace the layer or the pattern it names."""


class BudgetError(SecurePFLError):
    """A release would exceed the declared privacy budget: nothing was spent."""


class LedgerError(SecurePFLError):
    """A budget ledger cannot be trusted or written: the message names the file and the line."""


class MessageError(SecurePFLError):
    """Received bytes were refused before they were used: forged, replayed, truncated or from another round."""


class LateError(MessageError):
    """A message came after its step or round had ended: nothing is wrong with who sent it, and nothing to mend."""


class AggregateError(SecurePFLError):
    """An aggregate failed its check after decryption. Deliberately says no more than that."""


class StorageError(SecurePFLError):
    """A folder or file cannot be written or already holds something: choose another or make room."""


class AgentError(SecurePFLError):
    """A hospital's agent cannot be reached, refuses, or could not do what it was told: its own log says why."""


class HospitalNote(UserWarning):
    """What a hospital alone should know of its own data or ledger: warned of, and no error."""


def first_line(error: BaseException) -> str:
    """What somebody else's error says, in a line; its class where it says nothing.

    >>> first_line(ValueError("no such row\\nat all")), first_line(AssertionError())
    ('no such row', 'AssertionError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]
