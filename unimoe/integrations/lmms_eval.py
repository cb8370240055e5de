"""The entry point of lmms-eval as a part of the package; importing it costs what `import unimoe` does.

lmms-eval itself reads `unimoe_lmms_eval`, which is the same and imports neither torch nor transformers.
"""

from unimoe_lmms_eval import manifests

__all__ = ["manifests"]
