"""`python -m builder`, and what the console script imports: an interruption of the imports has no traceback either."""

try:
    from builder.cli.app import main
except KeyboardInterrupt:
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
