"""Pictures: one style, the paper's figures from numbers, two neurons at work, the gradient through time."""
