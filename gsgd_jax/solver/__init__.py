"""The element of a rescaling group at which the sum of squares of the weights is least.

`incidence` says which node scales which entries, and by which power; `knots` finds the sets of
nodes whose common scale nothing would hold; `usual_squares` says what is due to them, and to nodes
with weights on one side alone; `least_squares` is Newton's method on the rest; `small_layers` finds
layers whose smallness it would share among all. What asks for it is `gsgd_jax.balance`, and some of
the family.
"""
