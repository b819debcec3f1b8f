"""Models and data between a URI and a folder on disk: fetch, check, lay out, publish.

Shared by the model server and the trainer, the only thing they share. Importing it costs nothing: the object-store
library is loaded when an s3 or http URI is used, so a container that has just Python and torch can run the rest.
"""
