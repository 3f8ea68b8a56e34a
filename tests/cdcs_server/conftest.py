"""Keep pytest from importing what runs in the server's own environment."""

collect_ignore_glob = ["cdcs_site/*", "gunicorn_conf.py", "__main__.py"]
