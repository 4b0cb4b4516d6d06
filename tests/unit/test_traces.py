"""A trace is read whole or refused with file, line and field."""

from pathlib import Path

import pytest

from cli import traces
from cli.traces import TraceError


def written(folder: Path, text: str) -> Path:
    path = folder / "load.csv"
    path.write_bytes(text.encode())
    return path


def test_a_trace_is_read_as_it_is_written(tmp_path: Path) -> None:
    trace = traces.read(written(tmp_path, "\ufefft_seconds,requests\r\n0,1.5\r\n\r\n60,0\r\n120.5,7\r\n   "))
    assert trace == traces.Trace("load.csv", 60.0, (0.0, 60.0, 120.5), (1.5, 0.0, 7.0))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("0,1\n60,-2\n", r"line 3, field requests: must be in 0\.\.1e\+15; got -2"),
        ("0,1\n60,1e20\n", r"line 3, field requests: must be in 0\.\.1e\+15; got 1e20"),
        ("0,1\n60,nan\n", "line 3, field requests: must be finite; got 'nan'"),
        ("0,1\n60,\n", "line 3, field requests: must be a number; got ''"),
        ("0,1\nsoon,2\n", "line 3, field t_seconds: must be a number; got 'soon'"),
        ("0,1\ninf,2\n", "line 3, field t_seconds: must be finite; got 'inf'"),
        ("0,1\n,\n", "line 3, field requests: must be a number; got ''"),
        ("0,1\n60,2,3\n", r"line 3: must have 2 fields \(t_seconds,requests\); got 3"),
        ("0,1\n60,2\n240,3\n", "line 4, field t_seconds: a gap; after 60 must come 120; got 240"),
        ("0,1\n60,2\n30,3\n", r"line 4, field t_seconds: must be greater than on the line before \(60\); got 30"),
        ("0,1\n60,2\n60,3\n", r"line 4, field t_seconds: must be greater than on the line before \(60\); got 60"),
        ("0,1\n60,2\n90,3\n", "line 4, field t_seconds: steps must be 60 s long like the first; got 30 s"),
        ("0,1\n", "a trace needs at least 2 steps; got 1"),
        ("", "a trace needs at least 2 steps; got 0"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(TraceError, match=rf"load\.csv.*{message}"):
        traces.read(written(tmp_path, "t_seconds,requests\n" + body))


@pytest.mark.parametrize("text", ["", "time,requests\n0,1\n", "0,1\n60,2\n"])
def test_another_header_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TraceError, match="line 1: the header must be t_seconds,requests"):
        traces.read(written(tmp_path, text))


def test_what_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("binary.csv", "absent.csv"):
        with pytest.raises(TraceError, match=f"{name}: cannot be read"):
            traces.read(tmp_path / name)


def test_an_open_quote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        traces.read(written(tmp_path, 't_seconds,requests\n0,"1\n'))


@pytest.mark.parametrize("kind", traces.SYNTHETIC)
def test_synthetic_load_is_the_same_for_the_same_seed(kind: str) -> None:
    trace = traces.synthetic(kind, 7)
    assert trace == traces.synthetic(kind, 7)
    assert trace.requests != traces.synthetic(kind, 8).requests
    assert len(trace.requests) == 1440
    assert min(trace.requests) >= 0
    assert 200 < sum(trace.requests) / 1440 < 3000


def test_an_unknown_kind_is_refused_with_those_known() -> None:
    with pytest.raises(TraceError, match="must be one of diurnal, spike, ramp, noise, sawtooth; got 'storm'"):
        traces.synthetic("storm", 1)


def test_a_load_of_no_steps_is_refused() -> None:
    with pytest.raises(TraceError, match="steps must be in 2"):
        traces.synthetic("ramp", 1, steps=1)
