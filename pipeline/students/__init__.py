"""Students: backbones, heads, losses and the engine that trains them on cached targets."""
