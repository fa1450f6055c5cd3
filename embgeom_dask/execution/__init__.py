"""Everything that knows dask: spec, plan, panels on workers, journal, progress, memory."""
