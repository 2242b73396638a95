"""
Accuracy against temperature
============================

A head on the softmax of a network, whose logits were divided by a temperature: ``featbank plot
temperature``.
"""

# %%
import featbank

extracted = featbank.extract("digits", backbone="minivgg", cuts=["logits"], split="40,10,40", limit=900)
run = featbank.fit_heads(
    featbank.open_bank(extracted.bank),
    cuts=["softmax"],
    heads=["ncm"],
    samples_per_class="8,32",
    repeats=3,
    temperatures=[0.5, 1, 1.5, 2, 4],
).run
display = featbank.TemperatureDisplay.from_run(run)
display.plot()
