"""Groups of pictures coded elsewhere: by several processes of this machine, or by a cluster."""
