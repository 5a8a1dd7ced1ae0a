"""What passes through an agent's socket, and what does not."""

import io
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepfl.errors import AgentError, MessageError
from securepfl.runtime.agent.asking import ask
from securepfl.runtime.agent.wire import (
    MOST_MESSAGES,
    Outcome,
    Reply,
    read_reply,
    read_request,
    reply_parts,
    request_parts,
)

MESSAGES = st.lists(st.binary(max_size=200), max_size=5)


class Counted(io.BytesIO):
    """Knows how many bytes of it were wanted."""

    wanted = 0

    def read(self, size=-1):
        self.wanted += size
        return super().read(size)


@given(MESSAGES)
def test_a_request_arrives_as_it_was(messages):
    assert list(read_request(io.BytesIO(b"".join(request_parts(messages))), 2000)) == messages


@given(st.sampled_from(Outcome), st.integers(0, 2**32 - 1), st.booleans(), st.text(max_size=300), MESSAGES)
def test_a_reply_arrives_as_it_was(outcome, at, finished, text, replies):
    reply = Reply(outcome, at, finished, text, tuple(replies))
    assert read_reply(io.BytesIO(b"".join(reply_parts(reply))), 2000) == reply


@given(MESSAGES.filter(any), st.data())
def test_what_is_cut_off_is_no_request(messages, data):
    whole = b"".join(request_parts(messages))
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(MessageError, match="went away"):
        read_request(io.BytesIO(cut), 2000)


@given(st.binary(max_size=100))
def test_garbage_is_refused_and_never_raises_anything_else(garbage):
    for read in (read_request, read_reply):
        with pytest.raises(MessageError):
            read(io.BytesIO(garbage), 2000)


def test_lengths_are_checked_before_a_byte_of_content_is_read():
    head = struct.pack(">4sBIQQ", b"SPAQ", 1, 2, 600, 2**63)
    file = Counted(head + bytes(600))
    with pytest.raises(MessageError, match="at most 1000 belong there"):
        read_request(file, 1000)
    assert file.wanted == len(head)


def test_too_many_messages_are_refused_on_both_sides():
    with pytest.raises(MessageError, match="at most"):
        request_parts([b""] * (MOST_MESSAGES + 1))
    with pytest.raises(MessageError, match="at most"):
        read_request(io.BytesIO(struct.pack(">4sBI", b"SPAQ", 1, 2**32 - 1)), 1000)


@pytest.mark.parametrize("head", [(b"SPAQ", 2, 0), (b"SPAX", 1, 0)])
def test_another_version_or_program_is_told_apart(head):
    with pytest.raises(MessageError, match=r"install the same|none of securepfl's"):
        read_request(io.BytesIO(struct.pack(">4sBI", *head)), 1000)


def test_a_refusal_is_heard_by_who_was_still_speaking(tmp_path):
    """More than a socket holds, none of which is read: the agent refuses the user and hangs up."""
    refusal = b"".join(reply_parts(Reply(Outcome.REFUSED, text="user 7 may not ask")))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve(answer):
            with listener.accept()[0] as connection:
                connection.sendall(answer)

        for answer, said in ((refusal, "user 7 may not ask"), (b"", "the agent died meanwhile")):
            agent = threading.Thread(target=serve, args=(answer,))
            agent.start()
            with pytest.raises(AgentError, match=said):
                ask(tmp_path / "s", [bytes(2**22)])
            agent.join()
