"""Other libraries are measured in environments of their own; what does not work is one sentence in the table."""

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks import peer_speed, peers
from benchmarks.detection_sets import DetectionSet, digits
from benchmarks.peers import PEERS, Peer, PeerUnavailable, install, main, measured, peer_scores, table


@pytest.fixture(scope="module")
def data() -> DetectionSet:
    """One digit of scikit-learn's against the others."""
    return digits(3)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker beside which peers.py looks for its own: it scores an image by its mean."""
    monkeypatch.setattr(peers, "HERE", tmp_path)
    path = tmp_path / "peer_worker.py"
    path.write_text(
        "import sys, numpy as np\n"
        "with np.load(sys.argv[2]) as a: test = a['test']\n"
        "np.savez(sys.argv[3], scores=test.mean((1, 2, 3)), epochs=2, seconds=1.5)\n",
        encoding="utf-8",
    )
    return path


def test_scores_come_back_from_the_other_environment(data: DetectionSet, worker: Path) -> None:
    """Images go there and scores come back as files; nothing of the peer is imported here."""
    found = peer_scores("pyod-autoencoder", data, Path(sys.executable), seed=0, seconds=30)
    assert found.scores == pytest.approx(data.test_images.mean(axis=(1, 2, 3)))
    assert (found.maps, found.epochs, found.seconds) == (None, 2, 1.5)


def test_a_library_that_is_not_there_is_a_sentence(data: DetectionSet) -> None:
    """The reason is the other environment's own last word."""
    with pytest.raises(PeerUnavailable, match=r"PyOD AutoEncoder failed on digits 3: .*No module named 'pyod'"):
        peer_scores("pyod-autoencoder", data, Path(sys.executable), seed=0, seconds=30)


def test_a_peer_that_takes_too_long_is_given_up(
    data: DetectionSet, worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark goes on without it."""
    monkeypatch.setattr(peers, "PATIENCE", 1)
    worker.write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    with pytest.raises(PeerUnavailable, match="PyOD AutoEncoder failed on digits 3: it took more than 1 seconds"):
        peer_scores("pyod-autoencoder", data, Path(sys.executable), seed=0, seconds=0)


def test_scores_that_are_no_numbers_are_refused(data: DetectionSet, worker: Path) -> None:
    """A NaN has no rank."""
    worker.write_text(worker.read_text().replace("test.mean", "np.nan * test.mean"), encoding="utf-8")
    with pytest.raises(PeerUnavailable, match="PyOD AutoEncoder gave scores on digits 3 that are no numbers"):
        peer_scores("pyod-autoencoder", data, Path(sys.executable), seed=0, seconds=30)


def test_without_uv_there_is_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said what is needed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerUnavailable, match="PyOD AutoEncoder needs uv to make its environment, and uv was not"):
        install(PEERS["pyod-autoencoder"], tmp_path / "environments")


def test_an_environment_that_is_there_is_used(tmp_path: Path) -> None:
    """Nothing is installed twice."""
    (tmp_path / "pyod").mkdir()
    (tmp_path / "pyod" / "installed").touch()
    assert install(PEERS["pyod-autoencoder"], tmp_path) == tmp_path / "pyod" / "bin" / "python"


def test_what_does_not_install_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installer's last line is the reason, and the environment does not count as made."""
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'no such package' >&2\nexit 1\n", encoding="utf-8")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(PeerUnavailable, match="Lost does not install here: no such package"):
        install(Peer("Lost", "lost", ("lost",), "none"), tmp_path / "environments")
    assert not (tmp_path / "environments" / "lost" / "installed").exists()


def test_a_measured_peer_has_an_interval(data: DetectionSet, worker: Path, tmp_path: Path) -> None:
    """Its row holds AUROC with interval, epochs and seconds."""
    (tmp_path / "pyod" / "bin").mkdir(parents=True)
    (tmp_path / "pyod" / "installed").touch()
    (tmp_path / "pyod" / "bin" / "python").symlink_to(sys.executable)
    row = measured("pyod-autoencoder", data, tmp_path, seed=0, seconds=30)
    assert row.image_auroc is not None
    assert row.image_auroc.low < row.image_auroc.value < row.image_auroc.high
    assert (row.epochs, row.seconds, row.pixel_auroc, row.reason) == (2, 1.5, None, None)
    assert table([row]).row_count == 1


def test_the_command_goes_on_where_a_peer_is_not_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table and JSON hold the reason instead of figures."""
    monkeypatch.setenv("PATH", str(tmp_path))
    output = tmp_path / "peers.json"
    main(["--digits", "3", "--peers", "pyod-autoencoder", "--environments", str(tmp_path), "--output", str(output)])
    (row,) = json.loads(output.read_text())
    assert row["image_auroc"] is None
    assert row["reason"] == "PyOD AutoEncoder needs uv to make its environment, and uv was not found"
    assert "needs uv" in capsys.readouterr().out


@pytest.mark.slow
def test_speeds_are_ratios_of_both_sides(worker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each network is fitted and scores here and there; table and JSON hold how many times as fast we are."""
    worker.write_text(
        "import sys, numpy as np\n"
        "with np.load(sys.argv[2]) as a: assert a['train'].shape == a['test'].shape == (70, 1, 8, 8)\n"
        "np.savez(sys.argv[3], fit_seconds=300.0, score_seconds=200.0)\n",
        encoding="utf-8",
    )
    (tmp_path / "pyod" / "bin").mkdir(parents=True)
    (tmp_path / "pyod" / "installed").touch()
    (tmp_path / "pyod" / "bin" / "python").symlink_to(sys.executable)
    output = tmp_path / "speed.json"
    sizes = ["--images", "70", "--size", "8", "--rounds", "1"]
    peer_speed.main([*sizes, "--environments", str(tmp_path), "--output", str(output)])
    rows = json.loads(output.read_text())
    assert [row["network"] for row in rows] == list(peer_speed.NETWORKS)
    for row in rows:
        (ours,), (peer,) = row["ours"], row["peers"]
        assert peer == {"fit": 300, "score": 200, "export": None}
        assert row["fit"] == pytest.approx(300 / ours["fit"])
        assert row["score"] == pytest.approx(200 / ours["score"])
        assert min(ours.values()) > 0
    assert "times as fast" in capsys.readouterr().out


def test_every_package_is_pinned() -> None:
    """The versions that were measured are those that are installed."""
    pinned = (Path(peers.__file__).parent / "peers.txt").read_text(encoding="utf-8")
    for peer in PEERS.values():
        for package in peer.packages:
            assert f"\n{package}==" in pinned
