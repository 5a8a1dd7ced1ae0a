"""One answer an attempt is decrypted, also by a hospital that was killed while it decrypted one."""

import msgspec
import pytest
from parties import close_all, federation_of, parties, reopened

from securepfl.client.answers import Opener
from securepfl.client.pinning import PIN, Pin
from securepfl.errors import MessageError

ALONE = {"similarity": {"every": 0}, "coupling": {"strength": 0.0}, "encryption": {"scheme": "none"}}


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of the process goes on."""


@pytest.fixture
def killed(tmp_path):
    """A hospital that was killed while it decrypted the first round's answer, opened again, and that answer."""
    coordinator, clients = parties(federation_of(**ALONE), tmp_path)
    for message in [clients[name].contribute(one) for name, one in coordinator.invite().items()]:
        coordinator.receive(message)
    answer, client = coordinator.close()["alder"], clients["alder"]
    stored = (client.folder / "state.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Opener, "open", lambda *_: (_ for _ in ()).throw(KilledError()))
        client.apply(answer)
    assert (client.folder / "state.safetensors").read_bytes() == stored, "the state is not written for it"
    client.close()
    yield client, answer
    close_all({name: one for name, one in clients.items() if name != "alder"})


def test_it_takes_that_answer_again(killed):
    client, answer = killed
    client = reopened(client)
    assert client.state.pending.answer and client.round == 0
    client.apply(answer)
    assert client.round == 1
    client.close()


def test_a_note_of_another_answer_holds(killed):
    client, answer = killed
    noted = msgspec.json.decode((client.folder / PIN).read_bytes(), type=Pin)
    msgspec.structs.replace(noted, answer="0" * 64).save(client.folder)
    client = reopened(client)
    with pytest.raises(MessageError, match="another answer to this round came before"):
        client.apply(answer)
    client.close()


@pytest.mark.parametrize("other", [{"round": 2}, {"run": "another"}, None], ids=["later round", "other run", "torn"])
def test_what_is_no_note_of_this_round_counts_as_none(killed, other):
    client, answer = killed
    path = client.folder / PIN
    noted = msgspec.json.decode(path.read_bytes(), type=Pin)
    if other is None:
        path.write_bytes(path.read_bytes()[:20])
    else:
        msgspec.structs.replace(noted, answer="0" * 64, **other).save(client.folder)
    client = reopened(client)
    assert not client.state.pending.answer
    client.apply(answer)
    assert client.round == 1
    client.close()
