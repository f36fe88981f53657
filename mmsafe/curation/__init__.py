"""Making and looking after data sets.

None of these jobs goes by `mmsafe.experiment.job.complete`, which does a finished run no second time: `build` and
`prepare` tell from a folder of the user's own what is left to do, `inspect` and `tag` look at the data anew each time.
"""
