"""An optimizer of a user's own: learning rate and weight decay may be traced."""

import optax


def lion(learning_rate, weight_decay):
    return optax.lion(learning_rate, weight_decay=weight_decay)
