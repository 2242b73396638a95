"""
Inputs that excite a channel
============================

By gradient ascent from noise: ``featbank show dream``. Five channels of two cuts, to be quick.
"""

# %%
import featbank

backbone = featbank.load_backbone("minivgg")
display = featbank.DreamDisplay.from_backbone(
    backbone, ["block2_pool", "logits"], n=5, candidates=10, steps=64
)
display.plot()
