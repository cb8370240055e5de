"""`import unimoe` loads itself and little else beyond what it registers with: counted, not timed."""

from benchmarks.imports import NEEDED, modules_after


def test_importing_unimoe_adds_few_modules() -> None:
    """Today 11 of transformers: the layers of Llama and Whisper that unimoe is built from, and two base classes."""
    added = modules_after("import unimoe") - modules_after(NEEDED)
    foreign = {name for name in added if name.partition(".")[0] != "unimoe"}
    assert {name.partition(".")[0] for name in foreign} <= {"transformers"}, foreign
    assert len(foreign) <= 15, sorted(foreign)
    assert "unimoe.modeling_unimoe" in added
    optional = {
        "unimoe.cli",
        "unimoe.build.model",
        "unimoe.surgery",
        "unimoe.analysis",
        "unimoe.presets",
        "unimoe.checkpoint.loading",
    }
    assert not optional & added
