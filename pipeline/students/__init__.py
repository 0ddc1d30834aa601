"""Students: backbones, heads, losses and the training loop on cached targets."""
