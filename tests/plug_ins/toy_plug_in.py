"""A family of backbones of another package: one small network."""

from torch import nn

from featbank.backbones import BackboneSpec, Cut, Family, Preprocessing


class Toys(Family):
    def names(self):
        return ["lenet"]

    def spec(self, name):
        cuts = (Cut("pool", "2", (4, 8, 8)), Cut("logits", "4", (3,)))
        spec = BackboneSpec(name, "toys", cuts, 16, n_classes=3, head_key="4.weight")
        return spec if name == "lenet" else None

    def build(self, name, *, n_classes, image_size, initialise):
        layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(256, n_classes))

    def preprocessing(self, name):
        return Preprocessing(16, 18)


TOYS = Toys()
