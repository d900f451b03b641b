"""What all commands have alike."""

import dataclasses

__all__ = ["Command"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command is a dataclass whose fields are its flags."""

    quiet: bool = False
    """Print results, warnings and errors only."""

    def run(self) -> int:
        """Do the work; returns the exit code."""
        raise NotImplementedError

    def say(self, text: str) -> None:
        """Print what is no result, in one process of the job, if it is wanted."""
        if not self.quiet:
            self.tell(text)

    def tell(self, text: str) -> None:
        """Print a result, in one process of the job."""
        # Imported here, or help would wait for jax.
        from jaxrobust import hosts

        if hosts.is_primary():
            print(text, flush=True)
