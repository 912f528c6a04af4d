from .experiment import run_demo as run_demo
