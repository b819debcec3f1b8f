"""`make demo`: the main job of Moorage on a real cluster, with a result a person can check."""
