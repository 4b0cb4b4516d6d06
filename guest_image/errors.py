"""The one error of the image build. The build runs before the project's packages are installed."""


class BuildError(Exception):
    """The image cannot be built; the message says what is missing and what to do."""
