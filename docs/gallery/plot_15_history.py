"""
Loss and accuracy per epoch
===========================

How a kept head was trained, and where it stopped: ``featbank plot history``.
"""

# %%
import featbank

bank = featbank.open_bank(
    featbank.extract(
        "digits",
        backbone="minivgg",
        cuts=["block2_pool", "block3_pool", "block5_pool"],
        split="40,10,40",
        limit=900,
    ).bank
)
run = featbank.fit_heads(bank, cuts=["block3_pool"], heads=["mlp"], samples_per_class="16", repeats=1).run
display = featbank.HistoryDisplay.from_run(run)
display.plot()
