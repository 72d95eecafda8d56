"""Dropping and growing: what SET, RigL, SNFS and GraNet share."""
