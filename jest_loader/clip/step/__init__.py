"""What happens within a training step: loss, gradients, optimizer, the check for finite values."""
