import io

from kkanji.inference.progress import Progress, duration


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_from_time_to_time_where_there_is_no_terminal() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(1000, done=100, stream=stream, clock=clock)
    for second, failed in ((4, 0), (12, 3), (15, 3), (30, 3), (35, 4)):
        clock.now = 100.0 + second
        progress.update(180, failed)
    progress.say("unreadable: x.png")
    progress.close()
    assert stream.getvalue().splitlines() == [
        "460 of 1,000 files, 30.0/s, 18 s left, 3 unreadable",
        "820 of 1,000 files, 24.0/s, 8 s left, 3 unreadable",
        "unreadable: x.png",
    ]


def test_a_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(10, stream=stream)
    progress.say("unreadable: x.png")
    progress.update(10, 1)
    progress.close()
    assert "unreadable: x.png\n" in stream.getvalue() and "/10" in stream.getvalue()


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 61, 3600, 3725)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "1 h 00 min",
        "1 h 02 min",
    ]
