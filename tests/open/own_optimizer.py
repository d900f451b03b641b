"""Optimizers of a user's own: learning rate and weight decay may be traced."""

import optax


def lion(learning_rate, weight_decay):
    return optax.lion(learning_rate, weight_decay=weight_decay)


def nesterov(learning_rate, weight_decay):
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, optax.sgd(learning_rate, momentum=0.8, nesterov=True))
