"""
Class activation map
====================

The last map before the head, weighted by the head, and the occlusion map beside it: ``featbank show cam``.
"""

# %%
import featbank
from featbank.prediction import activation_map

bank = featbank.open_bank(
    featbank.extract(
        "digits",
        backbone="minivgg",
        cuts=["block2_pool", "block3_pool", "block5_pool"],
        split="40,10,40",
        limit=900,
    ).bank
)
run = featbank.fit_heads(bank, cuts=["block3_pool"], heads=["logreg"], samples_per_class="32", repeats=1).run
display = activation_map(run)
display.plot()
