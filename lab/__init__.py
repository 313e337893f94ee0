"""Two pools on one ordinary Linux machine: stand-ins for dom0's programs, behind those programs' own interfaces."""
