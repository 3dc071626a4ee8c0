from benchmarks.subject import ROOT

RESULT = ROOT / "benchmarks" / "results" / "gpu.json"
SENTENCES = {"README.md": "**No GPU has been measured yet.**", "docs/speed.md": "**No GPU has been measured yet.**"}


def test_the_documents_say_whether_a_gpu_was_measured() -> None:
    said = {name: sentence in (ROOT / name).read_text(encoding="utf-8") for name, sentence in SENTENCES.items()}
    assert said == dict.fromkeys(SENTENCES, not RESULT.exists())
    assert "results/gpu.json marks, if measured -->" in (ROOT / "docs/speed.md").read_text(encoding="utf-8")
