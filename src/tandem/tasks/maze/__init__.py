"""The point maze of RAIL and JM2D (JM2D, Sec. 5.1): a point mass in D4RL's maze, walls padded at test time, RTD's backup."""
