"""
What more labels would bring
============================

Each curve goes on by a power law with a bootstrap band: ``featbank plot curve --extrapolate 128``. It takes
four sizes.
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
run = featbank.fit_heads(
    bank, cuts=["block5_pool"], heads=["logreg"], samples_per_class="4..32", repeats=3
).run
display = featbank.CurveDisplay.from_run(run, extrapolate=128)
display.plot()
