"""A training step made fast: the same sums as the plain path, in few launches. SDXL's network is written out here.

    one micro-step (fused_step.py)                                     R rows: train rows, then auxiliary or preservation rows

    noisy (R, 4, h, w)   timesteps (R,)   context (R, S, 2048)    pooled, size_ids
          |                    |                |
          |              shifts of all    keys and values of all
          |              resnets at once  text attentions at once      groups.text: one product for 140 layers
          v                    |                |
       conv_in                 v                v
          |        down, middle, up:  resnet -> transformer blocks     network.py; weights of convolutions and
          v                                                            feed-forwards keep no inputs (frozen.py)
       conv_out -> prediction -> losses (R,) -> backward
                                                   |
                                                   v
              of every group of projections that read the same x:      products.py, fused_projection.py

              x (R T, n) ---[ W_1; ..; W_G; down_1; ..; down_G ]'---> [ base (R T, G m) | low (R T, G k) ]
                                  one product, G m + G k wide                 |              |
              y_i = base_i + low_i up_i'   (R T, m) each       <--------------+---- up_i ----+

              backward: dx through the same wide matrix; the gradients of A, B, C and D from their own rows (row_split.py),
              on a second stream (side_stream.py) that nothing waits for until the pass is over

              of every adapted convolution:                               convolutions.py

              y = W * x + up (down * x), with x kept; backward: both transposed, and each part from its own rows

    gather                the families' gradients are added to the stacks' (fused_factors.py -> stacks.py)
    optimiser step        bound, is all a number?, move, refresh `up` and `down` (optimizer_step.py); on a card decided there
    graph                 all launches of a micro-step recorded once for each shape of a batch, then replayed (graph.py)

Where to read: fused_step.py (what a step is), network.py (the forward pass), products.py (the low-rank products), then
what makes them cheap: norms.py, frozen.py, resnets.py, attention.py with triton_kernels.py and triton_attention.py
where there is Triton (accelerate.py), and streamed.py for cards that cannot hold the network. projection_groups.py says
which layers form a group, fused_factors.py holds their factors.

Letters: R rows of the batch, T tokens of a picture, S of a text, C channels, G members of a group, N groups of a kind,
(m, n) out and in features of a layer, k the rank of its factors (r for each block, splits.py).
"""
