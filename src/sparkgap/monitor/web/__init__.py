"""The web page of the monitor: runs, live and past, as the driver knows them."""
