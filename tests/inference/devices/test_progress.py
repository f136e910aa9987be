"""Progress where there is no terminal: a line at the end, and nothing where it is not wanted."""

from contextlib import suppress

from probattn.inference.devices.progress import Progress


def told(capsys, error=None, **settings):
    with suppress(KeyError), Progress("MAP", 20, **settings) as bar:
        bar.update(10, "loss 2")
        bar.update(20, "loss 1")
        if error:
            raise error
    return capsys.readouterr().err.splitlines()


def test_it_tells_where_it_ended(capsys):
    assert told(capsys) == ["MAP: 20/20, loss 1"]
    assert told(capsys, KeyError()) == []  # the error is what is told


def test_it_is_silent_where_it_is_not_wanted(capsys):
    assert told(capsys, show=False) == []


def test_lines_are_seconds_apart(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("probattn.inference.devices.progress.time.monotonic", lambda: now[0])
    with Progress("MAP", 40) as bar:
        for step in range(1, 5):
            now[0] = 6.0 * step
            bar.update(10 * step)
        assert bar.time_left(10) == "72 s left"
    assert capsys.readouterr().err.splitlines() == ["MAP: 20/40", "MAP: 40/40"]
